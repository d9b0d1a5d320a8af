"""The side of the authors, in a process of its own that imports their code from a checkout.

``python -m tools.fidelity.theirs MODULE FUNCTION FILE`` reads a job from FILE and writes the answer there. Nothing of
their code is copied or changed; ``stand_ins.py`` lists what is put in the place of a GPU machine.
"""
