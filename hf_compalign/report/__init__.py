"""What an audit found, written for readers."""
