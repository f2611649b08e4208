// What the kernels of towers have for each set of instructions.
void column_sums(const Columns& x, const float* centre, float* sums, int threads);
void dice(const Columns& x, const DiceOf& of, void* result, int threads);
void dice_sums(const Columns& x, const DiceOf& of, const void* gradient, float* sums, int threads);
void dice_gradient(const Columns& x, const DiceOf& of, const void* gradient, const float* level, const float* slope, void* result, int threads);
