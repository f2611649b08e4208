"""A whole checkpoint is written, read, looked into and compared.

- `calibration.py`: predictions mapped onto the rates at which labels come true, as the run folder keeps it
- `checkpoint.py`: tables, tower, optimizers, generators and the place in the data, taken up under any plan
- `contents.py`: what is in a checkpoint, every byte checked: `shardrec checkpoint show`
- `damage.py`: whether a checkpoint is damaged, read whole
- `difference.py`: what differs between two checkpoints: `shardrec checkpoint diff`
- `id_map_facts.py`: how full the id map of a checkpoint is
- `linked_files.py`: files of a checkpoint under a second name, in another one
- `manifest.py`: what a checkpoint's manifest says, checked before anything goes by it
- `moved_tower.py`: a checkpoint beside another, with the same tables and other weights of the tower
- `position.py`: how far a run has come
- `removal.py`: a checkpoint removed, by the files that its manifest names, and never while somebody reads it
- `restored.py`: a session with the values of a checkpoint, and workers that begin with one
- `saving.py`: a checkpoint on its way to the disk, at once or while training goes on: complete or absent
- `saved_model.py`: a checkpoint named on the command line, and what its run says of its tables
- `set_aside.py`: a checkpoint that a run does not go on from, moved out of its way
- `share.py`: what one worker writes of a checkpoint, at once or in a thread
- `tower_file.py`: the tower with its buffers and optimizer, as a checkpoint has them in one file
- `unfinished.py`: where a checkpoint is written, and how it becomes one
- `unsound_values.py`: what must not be in a checkpoint, as training could not go on from it
"""
