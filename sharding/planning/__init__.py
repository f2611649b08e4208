"""Where rows go, and what that costs.

- `advice.py`: What would make an estimated step shorter: changes to the run file, each planned and estimated like the
- `cost.py`: What a step under a plan is estimated to take: bytes and FLOP of each rank over the rates of a topology
- `fit.py`: Whether tables fit into the memory that ranks have, and what would make them fit: one line for the user
- `placements.py`: How a table is cut under each placement: plain constructors of `TablePlan`, and what a table is too
- `plan.py`: where each table's rows lie and what they take of memory: a plain value
- `plan_report.py`: how a plan is printed
- `planner.py`: Tables and topology -> plan: the run file's placements where given, what costs least for the others
- `row_memory.py`: Where a GPU's rows are, what that takes of device and of host memory, and what TorchRec and FBGEMM
- `spread.py`: Which tables are spread by rows, and who gets the others whole: by the estimate of `cost.py`
- `topology.py`: The machines that a plan is made for: ranks, hosts, memory for tables, bandwidth
"""
