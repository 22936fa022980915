// The models that the start page offers. The sizes of files on the Hub are what others say of them.

export const DEMO = {
  name: 'Demo model',
  source: './model/',
  bytes: 5_050_000,
  about: 'A tiny play writer. It has read Shakespeare and nothing else.',
  note: 'This model has 2.5 million parameters and has read Shakespeare alone. It writes lines that look like a play.',
  chips: ['ROMEO:', 'Who goes there?', 'What news, my lord?'],
};

export const MODELS = [
  DEMO,
  {
    name: 'Gemma 3 270M',
    source: 'ggml-org/gemma-3-270m-it-GGUF/gemma-3-270m-it-Q8_0.gguf',
    size: 'about 0.3 GB',
    about: 'Small and quick, also on a phone. Text.',
  },
  {
    name: 'Gemma 3 1B',
    source: 'ggml-org/gemma-3-1b-it-GGUF/gemma-3-1b-it-Q4_K_M.gguf',
    size: 'about 0.8 GB',
    about: 'A good start on a laptop. Text.',
  },
  {
    name: 'Gemma 3 4B',
    source: 'ggml-org/gemma-3-4b-it-GGUF/gemma-3-4b-it-Q4_K_M.gguf',
    size: 'about 3.3 GB',
    about: 'Knows more, and sees pictures.',
  },
];

export const CHIPS = ['Why is the sky blue?', 'Write a haiku about rain', 'Explain WebGPU in two sentences'];
