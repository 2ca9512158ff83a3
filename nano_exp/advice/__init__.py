"""From a composition that failed to words a user can act on."""
