"""A server of the OpenAI protocol with a checkpoint behind it, for tests/test_server.py.

    python tests/serve.py DIRECTORY PORT             # port 0: any that is free; the first line printed is the port

What it does well it does for the model "small". Other names stand for what goes wrong with every third request: status,
busy, garbage, hang-up, cut-off; with the tenth: die; and greedy ignores the temperature.
"""

import itertools
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import sample  # noqa: E402

torch.set_num_threads(1)
FAULTS = ("status", "busy", "garbage", "hang-up", "cut-off")
model, tokenizer, _ = sample.open_checkpoint(sys.argv[1], torch.float32)
one_at_a_time, count = threading.Lock(), itertools.count(1)


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = body["model"]
        with one_at_a_time:
            number = next(count)
            if name == "die" and number == 10:
                os._exit(1)
            if name in FAULTS and number % 3 == 0:
                return self.fail(name)
            if self.path != "/v1/chat/completions" or name not in ("small", "greedy", "die", *FAULTS):
                return self.reply(404, b'{"error": {"message": "no such model"}}')
            prompt = tokenizer.apply_chat_template(body["messages"], tokenize=False, add_generation_prompt=True)
            (made,) = sample.generate(
                model, [tokenizer(prompt, add_special_tokens=False).input_ids], body["max_tokens"],
                temperature=0.0 if name == "greedy" else body["temperature"], top_p=body["top_p"], seed=body["seed"],
                stop_ids=sample.stop_ids_in(model, tokenizer))
            text = tokenizer.decode(made.ids[:-1] if made.finished else made.ids)
            self.reply(200, json.dumps({
                "choices": [{"index": 0, "message": {"role": "assistant", "content": text},
                             "finish_reason": "stop" if made.finished else "length"}],
                "usage": {"completion_tokens": len(made.ids)}}).encode())

    def fail(self, fault: str) -> None:
        if fault == "status":
            self.reply(503, b"overloaded")
        elif fault == "busy":
            self.reply(429, b"", {"Retry-After": "0"})
        elif fault == "garbage":
            self.reply(200, b'{"choices": [')
        elif fault == "cut-off":  # within an error's text
            self.send_response(503)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"40\r\nover")
            self.connection.close()
        else:
            self.connection.close()

    def reply(self, status: int, content: bytes, headers: dict = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        print("answered", status, flush=True)  # before the answer is whole: who has it may kill us at once
        self.wfile.write(content)

    def log_message(self, *_) -> None:
        pass


server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler)
print(server.server_port, flush=True)
server.serve_forever()
