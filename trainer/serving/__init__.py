"""A bundle answers over HTTP: `shardrec serve`.

- `application.py`: the endpoints
- `batcher.py`: rows of several requests scored together, in one thread
- `contract.py`: what clients rely on, and whether another bundle keeps it
- `log.py`: lines that a service writes
- `measures.py`: what Prometheus is told
- `messages.py`: what supervisor and workers say to each other
- `openapi.py`: what OpenAPI says of a service
- `opened.py`: a bundle that is opened and tried
- `service.py`: one worker's state; how a request is admitted, answered, counted
- `settings.py`: where a service listens, and what it refuses
- `supervisor.py`: the process that holds the port and the workers
- `wire/`: bodies that come in, answers and refusals that go out
- `worker.py`: a process that answers
"""
