.PHONY: demo demo-down demo-docker demo-docker-down test lint types bench chaos cluster-up cluster-down cluster-status cluster-logs airflow-up airflow-down

demo:
	docker/demo

demo-down:
	docker/demo down

demo-docker:
	docker/stack demo

demo-docker-down:
	docker/stack down

test:
	tests/run

lint:
	tests/run lint

types:
	tests/run types

cluster-up:
	docker/cluster up

cluster-down:
	docker/cluster down

cluster-status:
	docker/cluster status

cluster-logs:
	docker/cluster logs

airflow-up:
	docker/airflow up

airflow-down:
	docker/airflow down

# PARTS="waiting parse" measures only these; RESUME=1 only what is missing in benchmarks/results. A
# peer that cannot be installed is not measured, which its table says.
bench:
	docker/bootstrap
	-docker/bootstrap bench
	.venv/bin/python -m benchmarks $(PARTS) $(if $(RESUME),--resume)

chaos:
	docker/bootstrap && docker/bootstrap chaos && .venv/bin/python -m tests.chaos
