"""Tables and live lines for people."""
