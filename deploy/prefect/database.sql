-- Runs once, when the database is made: Prefect keeps its bookkeeping beside ours, not in it.
CREATE DATABASE prefect OWNER carnet;
