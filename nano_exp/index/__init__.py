"""The store read for people: which runs a word means, what each row shows, kept for the next look."""
