"""A study's decisions: when a run is lost, and which points of a sweep go on. Attempts make them, from the store."""
