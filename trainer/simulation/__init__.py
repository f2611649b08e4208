"""A simulation lets policies serve users who are not real, and learn from what these click.

- `activeness.py`: how active each user is, by survival analysis of when users return
- `chart.py`: the picture of all policies over time
- `draws.py`: random numbers that depend on what they are for alone, and what is drawn by them
- `dueling_bandit.py`: dueling bandit gradient descent: a perturbed net takes over where its list wins the clicks
- `episode.py`: one policy with one seed: the loop over ticks, minor and major updates
- `epsilon_greedy.py`: lists of the best, but for some places that are filled at random
- `interleaving.py`: two rankings merged into one list, with the probability of what was shown
- `lived_days.py`: what an episode has kept of its days, read back by their types
- `linucb.py`: LinUCB, a linear model with a bonus for what it knows little of
- `log.py`: what was shown and what came of it, as transitions in Parquet
- `log_schema.py`: the schema of that log, and of what a policy is asked
- `major_update.py`: a major update: an ordinary training run, in this process
- `measures.py`: what a day came to: clicks, diversity, activeness, returns
- `neural.py`: policies that choose by a net of values: DQN, double DQN, DRN whole and in part
- `news.py`: news that arrive, are of topics and of a quality, and grow old
- `policies.py`: what a policy is; those that do without a model
- `registry.py`: policies by name
- `report.py`: what policies came to over seeds: a table and files
- `run_file.py`: the run file of a simulation: an ordinary one with a section of its own
- `settings.py`: what a run file says of users, news, periods, and how policies explore
- `side_by_side.py`: episodes one after another, or several at a time in processes
- `simulate.py`: `shardrec simulate`: every policy with every seed, in folders of their own
- `users.py`: users with tastes that drift, who get bored, and return when they are content
- `value_net.py`: a checkpoint's values of all candidates of a tick
- `world.py`: users meet news: who comes, what could be shown, what is clicked
"""
