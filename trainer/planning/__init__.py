"""What-if: machines that may not be here, and what a step would take there.

- `chart.py`: what a plan puts on each rank, as a picture
- `machines.py`: the machines that `shardrec plan` is asked about, from its options
- `report.py`: where tables would live, and what a step would take: `shardrec plan`
- `workload.py`: what a step of a run has to do, from its run file and schema alone
"""
