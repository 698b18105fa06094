"""The one way to a host: five verbs (protocol), over SSH or against a fake; and many hosts at once (fanout)."""
