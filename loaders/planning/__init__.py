"""What a machine and a dataset allow, before a run: the parts of ``tools/doctor.py``."""
