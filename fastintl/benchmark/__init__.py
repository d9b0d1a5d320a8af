"""How fast training and evaluation are here, beside other ways of doing the same, measured in one run."""
