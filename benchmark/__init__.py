"""ecgcmr-bench: fair comparison of ECG representations guided by cardiac MRI.

Importing the package costs nothing; torch is loaded only by the work that needs it.
"""

__version__ = "0.1.0"
