"""A plan says where rows go, and an estimate what that costs.

- `advice.py`: which changes would make an estimated step shorter
- `cost.py`: what a step under a plan is estimated to take
- `exchange.py`: the numbers that vectors travel as
- `fit.py`: whether tables fit into memory, and what would make them fit
- `placements.py`: how a table is cut under each placement
- `plan.py`: where each table's rows lie and what they take of memory: a plain value
- `plan_facts.py`: a plan in numbers, as reports draw it
- `plan_report.py`: how a plan is printed
- `planner.py`: how a plan is made of tables and a topology
- `row_memory.py`: where a GPU's rows are, and what that takes of device and host memory
- `spread.py`: which tables are spread by rows, and who gets the others whole
- `topology.py`: the machines that a plan is made for
- `traffic.py`: who sends how many bytes to whom, and how long that takes
"""
