"""The side of the authors: these modules run in a process of their own, which imports the authors' code from a checkout.

``python -m tools.fidelity.theirs TASK FILE`` reads its input from FILE and writes its answer there. Nothing of their
code is copied or changed; ``stand_ins.py`` lists what is put in the place of a GPU machine.
"""
