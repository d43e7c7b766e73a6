"""REST, WebSocket and pages of the `web` process."""
