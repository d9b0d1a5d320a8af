"""How fast pictures become crops here, beside other ways of doing the same, measured in one run."""
