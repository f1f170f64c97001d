"""Fine-tuning: a trained model with a small head, on a task with labels; or the head alone, as a probe."""
