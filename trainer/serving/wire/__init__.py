"""What goes over the wire: bodies that come in, answers and refusals that go out.

- `answers.py`: JSON or Arrow, and one form for all refusals
- `arrow_bodies.py`: rows as a stream of Arrow, of which nothing is believed
- `bodies.py`: bodies of requests, within limits of size and time
- `refusals.py`: what a client is told instead of an answer
"""
