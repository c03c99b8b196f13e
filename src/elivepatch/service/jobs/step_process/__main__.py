# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m elivepatch.service.jobs.step_process`: a step process. Only a server or a worker starts one."""

from elivepatch.service.jobs.step_process.program import main

if __name__ == "__main__":
    main()
