"""Floor 4: runs, that is pretraining an estimator, training an agent, evaluating it, and what they leave on disk."""
