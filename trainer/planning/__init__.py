"""A plan tells what a step would take on machines that may not be here.

- `chart.py`: what a plan puts on each rank, as a picture
- `machines.py`: the machines that `shardrec plan` is asked about, from its options
- `report.py`: what `shardrec plan` tells: where tables would live, and what a step would take
- `workload.py`: what a step of a run has to do, from its run file and schema alone
"""
