"""From overrides to frozen configs."""
