"""What several stages use: resume bookkeeping, answering evaluation items, accuracies, prompt lengths, memory-mapped tables, pages."""
