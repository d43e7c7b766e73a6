"""Pure codecs for both ends: the device wire format and the journal's columns."""
