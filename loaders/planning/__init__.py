"""What a machine and a data set allow, before a run: the parts of ``tools/doctor.py``."""
