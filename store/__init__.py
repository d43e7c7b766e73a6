"""Durable files: the journal and its followers' view, snapshots, the inbox, and history behind one protocol."""
