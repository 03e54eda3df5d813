.PHONY: cluster-up cluster-down cluster-status cluster-logs

cluster-up:
	docker/cluster up

cluster-down:
	docker/cluster down

cluster-status:
	docker/cluster status

cluster-logs:
	docker/cluster logs
