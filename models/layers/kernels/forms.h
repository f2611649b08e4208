// What the kernels of towers have for each set of instructions.
void column_sums(const Columns& x, const float* centre, float* sums, int threads);
void dice(const Columns& x, const DiceOf& of, void* result, int threads);
void dice_sums(const Columns& x, const DiceOf& of, const void* gradient, void* of_x, float* sums, int threads);
void dice_moments(const Columns& x, const float* level, const float* slope, void* of_x, int threads);
void recurrence_forward(const Recurrence& of, int threads);
void recurrence_backward(const Recurrence& of, const float* gradient, const RecurrenceGradients& to, int threads);
void layer_forward(const PositionLayer& of, void* results, bool bf16, const float* centre, float* sums, int threads);
void layer_backward(const PositionLayer& of, const PositionGradient& from, const PositionGradients& to, int threads);
void attention_forward(const Attention& of, float* pooled, float* weights, int threads);
void attention_backward(const Attention& of, const float* pooled, const float* weights, const float* gradients, float* of_factors, float* of_parameters, int threads);
void rows_forward(const Rows& of, void* attended, float* sums, int threads);
void rows_backward(const Rows& of, const void* attended, const float* sums, const void* gradient, void* of_query, void* of_key, void* of_value, int threads);
void fm_forward(const FmFields& x, float* totals, float* pairs, void* beside, bool bf16, int threads);
void fm_backward(const FmFields& x, const float* totals, const FmGradients& of, bool bf16, float* of_field, int threads);
void logit_forward(const Columns& x, const float* weight, float bias, float* logits, int threads);
void logit_backward(const Columns& x, const float* weight, const float* gradient, void* of_x, float* of_weight, int threads);
void jagged_sums(const Positions& x, void* sums, int threads);
void jagged_gradients(const Positions& x, const void* gradient, void* of_values, float* of_weights, int threads);
