"""What is counted, logged and traced. Nothing here ever holds a credential."""
