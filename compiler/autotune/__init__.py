"""The autotuner: measures ways to compute a function on the machine at hand, and remembers the fastest right one.

``lookup`` is all that a plain call needs: ``records`` and ``store`` beside it, no Optuna.  ``tuner`` leads a search:
``subject`` is what is tuned, ``space`` what may be chosen, ``study`` the trials in Optuna's storage, ``process`` the
worker that measures them (``worker``, ``bench``), ``shipping`` the file that carries results elsewhere.
"""
