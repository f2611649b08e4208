"""A policy is judged by the log of another one: `shardrec ope`.

- `choices.py`: what each row could have shown
- `estimators.py`: replay, inverse propensities, their self-normalised form, reward model, doubly robust
- `evaluate_policy.py`: the whole evaluation, from a log to estimates
- `intervals.py`: bootstrap and normal intervals of ratios of sums
- `log_fields.py`: which columns of a log are its action, reward, propensity, position, time and candidates
- `logged.py`: a log is read and checked
- `model_scores.py`: a trained model scores every candidate
- `report.py`: what was found, as a table and as CSV
- `reward_models.py`: the reward that an action would have had, from rows of other folds
- `scorable_rows.py`: rows with each candidate in the place of what was shown, for a model to score
- `target_policies.py`: with which probability the judged policy shows each candidate
- `weight_facts.py`: effective sample size, largest weight, support, and what of it makes an estimate worthless
"""
