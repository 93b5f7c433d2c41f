"""A lesion's outline and its RECIST axes, from the grey values in its box; no trained mask is needed."""
