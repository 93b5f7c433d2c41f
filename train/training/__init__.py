"""Training: a plan, the loop that follows it, its pace and its curves."""
