"""A run, or several, on one page: `report.html`.

- `after_training.py`: the page that training leaves, or a line that says why it could not
- `chart.py`: one chart as SVG: axes, lines, dots, bars, marks, legend
- `final_scores.py`: ROC, precision and recall, calibration, histograms of the final evaluation
- `headline.py`: how a run stands, its figures and metrics, what a reader should know
- `learning_curves.py`: training and validation over steps
- `lists.py`: recall and NDCG of lists of the whole catalogue, by their length
- `markup.py`: elements of HTML and SVG, in which all text is escaped
- `metric_names.py`: what metrics are called, which come first, which direction is better
- `numbers.py`: numbers as people read them, and round ticks
- `one_run.py`: the page of a run, and of a run of stages
- `page.py`: a page, its sections, tables, cards and notes
- `plan_section.py`: memory by rank and placement, and the tables
- `provenance.py`: commands, versions, machine, seed, fingerprints of the data
- `report.py`: which page is written where
- `run_facts.py`: what a run folder tells, whatever state it is in
- `settings_section.py`: settings that are not the defaults, and settings in which runs differ
- `side_by_side.py`: the page of several runs
- `slice_scores.py`: how slices are scored, kept in the run folder
- `slices.py`: rows by values of a feature
- `slices_section.py`: slices on a page
- `speed_and_memory.py`: throughput and memory over time
- `style.py`: colours for both schemes, and the style sheet
- `table_health.py`: what `shardrec tables` tells, of tables that are read in a moment
- `thinning.py`: long curves drawn with few points
"""
