"""The commands of ``tidegate``: the ``add`` of each module registers its own.

Commands import what they need when they run, so that ``--help`` and ``env`` stay quick.
"""
