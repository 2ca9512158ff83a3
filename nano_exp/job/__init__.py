"""What runs on the compute node: claim a run, train it, watch it, end it, have it go on."""
