// What Dice makes of s, f = (alpha + p (1 - alpha)) s with p = sigma((s - mean) scale), and its gradients, for some columns.
//
// Included inside the namespace of a set of instructions, after `lanes.h`.
struct DiceTerms {
    Lanes mean, scale, alpha, rest;

    DiceTerms(const DiceOf& of, int64_t d, int64_t n) : mean(load(of.mean + d, n)), scale(load(of.scale + d, n)), alpha(load(of.alpha + d, n)), rest(1.0f - alpha) {}

    Lanes exponent(Lanes s) const { return (s - mean) * scale; }
    Lanes share(Lanes s) const { return sigmoid(exponent(s)); }
    Lanes result(Lanes s, Lanes p) const { return (alpha + p * rest) * s; }

    // Returns the gradient of s for given moments by that of f; adds those of alpha, of the exponent, and of that times the exponent,
    // the latter two up to 1 - alpha.
    Lanes gradient(Lanes s, Lanes p, Lanes g, Lanes* found) const {
        const Lanes of_alpha = g * (1.0f - p) * s, of_exponent = of_alpha * p;
        found[0] += of_alpha;
        found[1] += of_exponent;
        found[2] += of_exponent * exponent(s);
        return g * (alpha + p * rest) + of_exponent * (rest * scale);
    }
};
