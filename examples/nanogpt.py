"""Train a small character transformer with fallline.optim.AdamW, as one would with torch.optim.AdamW.

    python examples/nanogpt.py            # about a minute on a laptop; prints the loss and a sample

The optimizer line is the only one that mentions fallline's optimizers; the rest is an ordinary training loop.
"""

import time

import torch

import fallline
from fallline.schedules import cosine, warmup
from fallline.tasks import evaluate, fetch, load
from fallline.tasks.shakespeare_gpt import ALPHABET, CONTEXT

STEPS = 300
BATCH_SIZE = 32
LEARNING_RATE = 3e-3  # large for AdamW: the model is small
WARMUP = 20  # steps; Adam's second moment is unreliable before
BETAS = (0.9, 0.99)  # short memory suits few steps
WEIGHT_DECAY = 0.1  # on matrices only
PROMPT = "ROMEO:\n"


def main(steps=STEPS):
    torch.manual_seed(0)
    task = load("shakespeare-gpt")
    model = task.model()

    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    optimizer = fallline.optim.AdamW(
        [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}],
        lr=LEARNING_RATE * (warmup(WARMUP) >> cosine(max(1, steps - WARMUP))),
        betas=BETAS,
    )

    began = time.perf_counter()
    for step in range(1, steps + 1):
        batch = fetch(task.train, torch.randint(len(task.train), (BATCH_SIZE,)))
        loss = task.loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step == 1 or step % 50 == 0 or step == steps:
            lr = optimizer.param_groups[0]["lr"]
            print(f"step {step:4d}  loss {loss.item():.3f}  lr {lr:.2e}  {time.perf_counter() - began:.0f} s")
    quality = evaluate(task, model)
    print(f"validation {quality:.3f} nats per character\n\n{sample(model, PROMPT, 200)}")
    return quality


@torch.no_grad()
def sample(model, prompt, length):
    codes = torch.tensor([[ALPHABET.index(c) for c in prompt]])
    for _ in range(length):
        logits = model(codes[:, -CONTEXT:])[0, -1]
        codes = torch.cat([codes, torch.multinomial(logits.softmax(0), 1)[None]], 1)
    return "".join(ALPHABET[i] for i in codes[0])


if __name__ == "__main__":
    main()
