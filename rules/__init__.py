"""The vectorised engine: expressions, conditions, windows, alarms, arbitration. Pure: time and configuration are data."""
