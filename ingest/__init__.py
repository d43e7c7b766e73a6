"""From MQTT messages to admitted frames: transport, decoding, gathering, admission, ledger, receipts."""
