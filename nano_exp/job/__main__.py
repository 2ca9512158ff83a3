"""`python -m nano_exp.job`: the command of a batch script."""

import sys

from nano_exp.job.attempt import main

sys.exit(main())
