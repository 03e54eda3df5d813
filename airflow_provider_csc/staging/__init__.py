"""Files that a job fetches and delivers itself, by presigned URLs: declarations, plan, helper."""
