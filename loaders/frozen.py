"""Imported last of all by a process that others are forks of, it tells Python that what there is stays.

Garbage is then looked for among newer objects alone. Otherwise each fork goes through all that torch and the project
brought, a fifth of a second several times over, and gets pages of its own for them by that.
"""

import gc

gc.collect()
gc.freeze()
