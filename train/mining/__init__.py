"""Mining: what a trained detector finds on partly marked CT becomes something to learn from."""
