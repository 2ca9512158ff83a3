"""Which parallel layouts are valid, for which architecture and batches."""
