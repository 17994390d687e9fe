"""Studies: methods x settings x labels per class x seeds, for ``ssl-bench study``."""
