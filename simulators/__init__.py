"""Physics models and simulated devices that speak plain MQTT and know nothing of the service."""
