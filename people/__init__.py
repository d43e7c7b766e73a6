"""What follows the journal on behalf of persons: notification and the watchdog over `core`."""
