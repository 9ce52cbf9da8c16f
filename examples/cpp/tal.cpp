// The task-aligned assigner and the detection loss in C++20, in one file without dependencies, judged by test vectors.
//
//     g++ -std=c++20 -O2 -o tal examples/cpp/tal.cpp
//     tal-conformance export vectors --profile dev
//     ./tal vectors                                   # writes vectors/outcomes/cpp
//     tal-conformance judge vectors
//
// Clauses are those of docs/specification.md. B: images, A: anchors, C: classes, R: bins, M: ground truths of an image.
// Gradients of CIoU are computed by dual numbers: a value with its derivatives by the four sides of the predicted box.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

using std::string, std::vector;
namespace fs = std::filesystem;

// ---- files: JSON and safetensors

struct Json {
    enum { Null, Bool, Number, Text, List, Object } kind = Null;
    double number = 0;
    string text;
    vector<Json> list;
    std::map<string, Json> object;
    const Json& operator[](const string& key) const { return object.at(key); }
    const Json& operator[](size_t index) const { return list.at(index); }
    bool has(const string& key) const { return object.count(key) && object.at(key).kind != Null; }
};

struct JsonReader {
    const string& source;
    size_t at = 0;

    char next() {
        while (at < source.size() && std::isspace(static_cast<unsigned char>(source[at]))) ++at;
        return at < source.size() ? source[at] : '\0';
    }
    string text() {
        string result;
        for (++at; source.at(at) != '"'; ++at) {
            if (source[at] != '\\') { result += source[at]; continue; }
            const char escaped = source.at(++at);
            if (escaped == 'u') { at += 4; result += '?'; }  // names and checksums are ASCII
            else result += escaped == 'n' ? '\n' : escaped == 't' ? '\t' : escaped;
        }
        ++at;
        return result;
    }
    Json value() {
        Json json;
        switch (next()) {
        case '{':
            json.kind = Json::Object;
            for (++at; next() != '}';) {
                const string key = text();
                if (next() != ':') throw std::runtime_error("JSON: expected ':'");
                ++at;
                json.object[key] = value();
                if (next() == ',') { ++at; next(); }
            }
            ++at;
            return json;
        case '[':
            json.kind = Json::List;
            for (++at; next() != ']';) {
                json.list.push_back(value());
                if (next() == ',') ++at;
            }
            ++at;
            return json;
        case '"': json.kind = Json::Text; json.text = text(); return json;
        case 't': json.kind = Json::Bool; json.number = 1; at += 4; return json;
        case 'f': json.kind = Json::Bool; at += 5; return json;
        case 'n': at += 4; return json;
        default: {
            size_t length = 0;
            json.kind = Json::Number;
            json.number = std::stod(source.substr(at, 40), &length);
            at += length;
            return json;
        }
        }
    }
};

string contents(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error("cannot read " + path.string());
    return {std::istreambuf_iterator<char>(file), {}};
}

struct Tensor {  // float32 only: the dtype of the vectors
    vector<size_t> shape;
    vector<float> numbers;
    size_t size() const { return numbers.size(); }
};

std::map<string, Tensor> read(const fs::path& path) {
    const string bytes = contents(path);
    uint64_t length;
    std::memcpy(&length, bytes.data(), 8);
    const string text = bytes.substr(8, length);
    std::map<string, Tensor> tensors;
    const Json header = JsonReader{text}.value();
    for (const auto& [name, entry] : header.object) {
        if (name == "__metadata__") continue;
        if (entry["dtype"].text != "F32") throw std::runtime_error(name + " is not float32");
        Tensor& tensor = tensors[name];
        size_t count = 1;
        for (const Json& side : entry["shape"].list) {
            tensor.shape.push_back(static_cast<size_t>(side.number));
            count *= tensor.shape.back();
        }
        tensor.numbers.resize(count);
        const auto begin = static_cast<size_t>(entry["data_offsets"][0].number);
        std::memcpy(tensor.numbers.data(), bytes.data() + 8 + length + begin, 4 * count);
    }
    return tensors;
}

class Outcome {  // tensors of an outcome file, in the order in which they are added
public:
    template <typename T>
    void add(const string& name, const char* dtype, const vector<size_t>& shape, const vector<T>& numbers) {
        header_ << ",\"" << name << "\":{\"dtype\":\"" << dtype << "\",\"shape\":[";
        for (size_t n = 0; n < shape.size(); ++n) header_ << (n ? "," : "") << shape[n];
        header_ << "],\"data_offsets\":[" << data_.size() << ",";
        data_.append(reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(T));
        header_ << data_.size() << "]}";
    }
    void write(const fs::path& path, const string& checksum, const string& key, const string& reason) const {
        string text = "{\"__metadata__\":{\"vector\":\"" + checksum + "\"";
        if (!reason.empty()) text += ",\"" + key + "\":\"" + reason + "\"";
        text += "}" + header_.str() + "}";
        const uint64_t length = text.size();
        std::ofstream file(path, std::ios::binary);
        file.write(reinterpret_cast<const char*>(&length), 8);
        file << text << data_;
    }

private:
    std::ostringstream header_;
    string data_;
};

// ---- CIoU, with derivatives

struct Dual {  // a number and its derivatives by the sides of the predicted box
    double value = 0;
    std::array<double, 4> slope{};
    Dual(double number = 0) : value(number) {}
    Dual(double number, size_t side) : value(number) { slope[side] = 1; }
};
Dual chain(double value, const Dual& a, double by_a, const Dual& b = {}, double by_b = 0) {
    Dual result(value);
    for (size_t n = 0; n < 4; ++n) result.slope[n] = by_a * a.slope[n] + by_b * b.slope[n];
    return result;
}
Dual operator+(const Dual& a, const Dual& b) { return chain(a.value + b.value, a, 1, b, 1); }
Dual operator-(const Dual& a, const Dual& b) { return chain(a.value - b.value, a, 1, b, -1); }
Dual operator*(const Dual& a, const Dual& b) { return chain(a.value * b.value, a, b.value, b, a.value); }
Dual operator/(const Dual& a, const Dual& b) {
    return chain(a.value / b.value, a, 1 / b.value, b, -a.value / (b.value * b.value));
}
Dual atan_of(const Dual& a) { return chain(std::atan(a.value), a, 1 / (1 + a.value * a.value)); }
Dual pick(const Dual& a, const Dual& b, bool first) {  // of equal values the mean of the derivatives
    if (a.value == b.value) return chain(a.value, a, .5, b, .5);
    return std::isnan(a.value) || (first && !std::isnan(b.value)) ? a : b;
}
Dual least(const Dual& a, const Dual& b) { return pick(a, b, a.value < b.value); }
Dual most(const Dual& a, const Dual& b) { return pick(a, b, a.value > b.value); }

bool exceeds(double a, double b) { return a > b || (std::isnan(a) && !std::isnan(b)); }  // NaN is the largest number
double larger(double a, double b) { return exceeds(b, a) ? b : a; }

using Box = std::array<double, 4>;
using DualBox = std::array<Dual, 4>;
constexpr double EPS = 1e-7, PI = 3.14159265358979323846;

Dual ciou(const Box& truth, const DualBox& box) {  // IOU-1
    const Dual w = truth[2] - truth[0], h = truth[3] - truth[1] + EPS;
    const Dual W = box[2] - box[0], H = box[3] - box[1] + Dual(EPS);
    const Dual across = most(least(truth[2], box[2]) - most(truth[0], box[0]), 0.0);
    const Dual down = most(least(truth[3], box[3]) - most(truth[1], box[1]), 0.0);
    const Dual shared = across * down, iou = shared / (w * h + W * H - shared + Dual(EPS));
    const Dual wide = most(truth[2], box[2]) - least(truth[0], box[0]);
    const Dual high = most(truth[3], box[3]) - least(truth[1], box[1]);
    const Dual x = Dual(truth[0] + truth[2]) - box[0] - box[2], y = Dual(truth[1] + truth[3]) - box[1] - box[3];
    const Dual distance = (x * x + y * y) / Dual(4) / (wide * wide + high * high + Dual(EPS));
    const Dual angle = atan_of(W / H) - atan_of(w / h), v = Dual(4 / (PI * PI)) * angle * angle;
    const double weight = v.value / (1 - iou.value + v.value + EPS);  // IOU-2: a constant for the gradient
    return iou - distance - Dual(weight) * v;
}

// ---- the assigner, for one image

struct Settings {
    size_t topk = 10, topk2 = 10, classes = 1, bins = 16;
    double alpha = .5, beta = 6, box_gain = 7.5, cls_gain = .5, dfl_gain = 1.5;
    vector<double> strides, class_weights;
};

struct Image {
    vector<double> scores;  // (A, C) after the sigmoid
    vector<Box> boxes;      // (A) predicted, in pixels
    vector<std::array<double, 2>> anchors;  // (A) in pixels
    vector<int> labels;     // (M)
    vector<Box> truths;     // (M) in pixels
    vector<bool> real;      // (M) ANN-3
};

struct Target {
    bool foreground = false;
    int truth = 0, label = 0;
    Box box{};
    double weight = 0;
};

vector<size_t> best(const vector<double>& values, size_t k) {  // TAL-TOPK-1
    vector<size_t> order(values.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return exceeds(values[a], values[b]); });
    order.resize(k);
    return order;
}

vector<Target> assign(const Image& image, const Settings& settings) {
    const size_t A = image.anchors.size(), M = image.truths.size(), k = settings.topk, k2 = settings.topk2;
    vector<Target> targets(A);
    if (!M) return targets;  // TAL-EMPTY-1
    if (std::max(k, k2) > A) throw std::invalid_argument("top k exceeds the number of anchors");  // TAL-TOPK-2
    const double floor = settings.strides[std::min<size_t>(1, settings.strides.size() - 1)];
    vector<vector<double>> overlap(M, vector<double>(A)), metric = overlap;
    vector<vector<char>> positive(M, vector<char>(A));
    for (size_t g = 0; g < M; ++g) {
        Box inside = image.truths[g];
        for (size_t axis = 0; axis < 2; ++axis) {  // TAL-CAND-2
            const double centre = (inside[axis] + inside[axis + 2]) / 2;
            if (inside[axis + 2] - inside[axis] >= floor) continue;
            inside[axis] = centre - floor / 2;
            inside[axis + 2] = centre + floor / 2;
        }
        vector<char> candidate(A);
        for (size_t a = 0; a < A; ++a) {
            const auto [x, y] = image.anchors[a];
            candidate[a] = image.real[g] && std::min({x - inside[0], y - inside[1], inside[2] - x, inside[3] - y}) > 1e-9;
            if (!candidate[a]) continue;  // TAL-CAND-1
            DualBox box;
            for (size_t side = 0; side < 4; ++side) box[side] = image.boxes[a][side];
            overlap[g][a] = larger(0, ciou(image.truths[g], box).value);  // TAL-MET-1
            metric[g][a] = std::pow(image.scores[a * settings.classes + image.labels[g]], settings.alpha)
                           * std::pow(overlap[g][a], settings.beta);
        }
        for (const size_t a : best(metric[g], k)) positive[g][a] = candidate[a];
    }
    for (size_t a = 0; a < A; ++a) {  // TAL-CONF-1
        size_t claims = 0, winner = 0;
        for (size_t g = 0; g < M; ++g) {
            claims += positive[g][a];
            if (exceeds(overlap[g][a], overlap[winner][a])) winner = g;
        }
        for (size_t g = 0; claims > 1 && g < M; ++g) positive[g][a] = g == winner;
    }
    for (size_t g = 0; g < M; ++g) {
        if (k2 != k) {  // TAL-CONF-2
            vector<double> own = metric[g];
            for (size_t a = 0; a < A; ++a) own[a] *= positive[g][a];
            vector<char> kept(A);
            for (const size_t a : best(own, k2)) kept[a] = positive[g][a];
            positive[g] = kept;
        }
        double best_metric = 0, best_overlap = 0;  // TAL-NORM-1
        for (size_t a = 0; a < A; ++a) {
            if (!positive[g][a]) continue;
            best_metric = larger(best_metric, metric[g][a]);
            best_overlap = larger(best_overlap, overlap[g][a]);
        }
        for (size_t a = 0; a < A; ++a) {
            if (!positive[g][a]) continue;
            const double weight = metric[g][a] * best_overlap / (best_metric + 1e-9);
            targets[a] = {true, static_cast<int>(g), image.labels[g], image.truths[g], weight};  // TAL-TGT-1
        }
    }
    return targets;
}

// ---- the loss

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

struct Sides {  // of one side: its distribution over the bins
    vector<double> logits, probability;
    double expected = 0, log_sum = 0;  // log_sum: log of the sum of e^logit
};

Sides side_of(vector<double> logits) {  // DEC-1
    Sides side{std::move(logits), {}, 0, 0};
    const double most = *std::max_element(side.logits.begin(), side.logits.end());
    double sum = 0;
    for (const double x : side.logits) sum += std::exp(x - most);
    side.log_sum = most + std::log(sum);
    for (size_t n = 0; n < side.logits.size(); ++n) {
        side.probability.push_back(std::exp(side.logits[n] - side.log_sum));
        side.expected += static_cast<double>(n) * side.probability[n];
    }
    if (side.logits.size() == 1) side.expected = side.logits[0];
    return side;
}

struct Anchor {
    size_t level, cell;
    double x, y, stride;  // centre in grid units
};

void compute_loss(const std::map<string, Tensor>& batch, const Settings& settings, Outcome& outcome,
                  vector<vector<Target>>& all_targets, vector<Image>& images) {
    const size_t C = settings.classes, R = settings.bins, levels = settings.strides.size();
    vector<const Tensor*> maps;
    vector<Anchor> anchors;  // PRE-1, ANC-1
    for (size_t level = 0; level < levels; ++level) {
        maps.push_back(&batch.at("level." + std::to_string(level)));
        const size_t rows = maps[level]->shape[2], columns = maps[level]->shape[3];
        for (size_t cell = 0; cell < rows * columns; ++cell)
            anchors.push_back({level, cell, static_cast<double>(cell % columns) + .5,
                               static_cast<double>(cell / columns) + .5, settings.strides[level]});
    }
    const size_t B = maps[0]->shape[0], A = anchors.size(), channels = 4 * R + C;
    const auto place = [&](size_t b, size_t channel, size_t a) {
        const Tensor& map = *maps[anchors[a].level];
        return (b * channels + channel) * map.shape[2] * map.shape[3] + anchors[a].cell;
    };
    const auto logit = [&](size_t b, size_t channel, size_t a) -> double {
        return maps[anchors[a].level]->numbers[place(b, channel, a)];
    };
    const float width = static_cast<float>(maps[0]->shape[3] * settings.strides[0]);  // PRE-2
    const float height = static_cast<float>(maps[0]->shape[2] * settings.strides[0]);

    images.assign(B, {});
    const Tensor& rows = batch.at("annotations");
    for (size_t n = 0; n < rows.shape[0]; ++n) {  // ANN-1, in float32 as the rows themselves
        const float* row = &rows.numbers[6 * n];
        const float x = row[2] * width, y = row[3] * height, w = row[4] * width / 2, h = row[5] * height / 2;
        const float x1 = x - w, y1 = y - h, x2 = x + w, y2 = y + h;
        Image& image = images.at(static_cast<size_t>(row[0]));
        image.labels.push_back(static_cast<int>(row[1]));
        image.truths.push_back({x1, y1, x2, y2});
        image.real.push_back(x1 + y1 + x2 + y2 > 0);  // ANN-3
    }
    vector<vector<std::array<Sides, 4>>> sides(B, vector<std::array<Sides, 4>>(A));
    double score_sum = 0;
    for (size_t b = 0; b < B; ++b) {
        Image& image = images[b];
        for (size_t a = 0; a < A; ++a) {
            const Anchor& anchor = anchors[a];
            for (size_t side = 0; side < 4; ++side) {
                vector<double> logits;
                for (size_t bin = 0; bin < R; ++bin) logits.push_back(logit(b, side * R + bin, a));
                sides[b][a][side] = side_of(std::move(logits));
            }
            const auto at = [&](size_t side) { return sides[b][a][side].expected; };
            image.boxes.push_back({(anchor.x - at(0)) * anchor.stride, (anchor.y - at(1)) * anchor.stride,
                                   (anchor.x + at(2)) * anchor.stride, (anchor.y + at(3)) * anchor.stride});  // DEC-2
            image.anchors.push_back({anchor.x * anchor.stride, anchor.y * anchor.stride});
            for (size_t c = 0; c < C; ++c) image.scores.push_back(sigmoid(logit(b, 4 * R + c, a)));
        }
        all_targets.push_back(assign(image, settings));
        for (Target& target : all_targets[b]) {
            target.weight = static_cast<float>(target.weight);  // as it is written
            score_sum += target.weight;
        }
    }
    const double N = larger(1, score_sum), images_count = static_cast<double>(B);  // LOSS-SUM-1
    vector<vector<float>> gradients;
    for (const Tensor* map : maps) gradients.emplace_back(map->size(), 0.f);
    double box_sum = 0, cls_sum = 0, dfl_sum = 0;
    for (size_t b = 0; b < B; ++b) {
        for (size_t a = 0; a < A; ++a) {
            const Target& target = all_targets[b][a];
            const Anchor& anchor = anchors[a];
            vector<float>& gradient = gradients[anchor.level];
            for (size_t c = 0; c < C; ++c) {  // LOSS-CLS-1, COR-7
                const double x = logit(b, 4 * R + c, a), factor = settings.class_weights.empty() ? 1 : settings.class_weights[c];
                const double z = target.foreground && static_cast<size_t>(target.label) == c ? target.weight : 0;
                cls_sum += factor * (std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))) - x * z);
                gradient[place(b, 4 * R + c, a)] =
                    static_cast<float>(images_count * settings.cls_gain * factor * (sigmoid(x) - z) / N);
            }
            if (!target.foreground) continue;
            Box truth;
            for (size_t side = 0; side < 4; ++side) truth[side] = target.box[side] / anchor.stride;
            const auto& own = sides[b][a];
            const DualBox box{Dual(anchor.x - own[0].expected, 0), Dual(anchor.y - own[1].expected, 1),
                              Dual(anchor.x + own[2].expected, 2), Dual(anchor.y + own[3].expected, 3)};
            const Dual overlap = ciou(truth, box);
            box_sum += target.weight * (1 - overlap.value);  // LOSS-BOX-1
            const double wanted[4] = {anchor.x - truth[0], anchor.y - truth[1], truth[2] - anchor.x, truth[3] - anchor.y};
            for (size_t side = 0; side < 4; ++side) {
                const double by_distance = -overlap.slope[side] * (side < 2 ? -1 : 1) * settings.box_gain;
                if (R == 1) {  // COR-1
                    const double share = anchor.stride / (side % 2 ? height : width), error = own[side].expected - wanted[side];
                    dfl_sum += target.weight * std::abs(error) * share / 4;
                    const double sign = error > 0 ? 1 : error < 0 ? -1 : 0;
                    const double slope = by_distance + settings.dfl_gain * sign * share / 4;
                    gradient[place(b, side, a)] = static_cast<float>(images_count * target.weight * slope / N);
                    continue;
                }
                const double d = std::clamp(wanted[side], 0.0, static_cast<double>(R) - 1 - 0.01);  // LOSS-DFL-1
                const auto lower = static_cast<size_t>(d);
                const double upper_share = d - static_cast<double>(lower);
                dfl_sum += target.weight / 4
                           * (own[side].log_sum - (1 - upper_share) * own[side].logits[lower] - upper_share * own[side].logits[lower + 1]);
                for (size_t bin = 0; bin < R; ++bin) {
                    const double p = own[side].probability[bin];
                    const double goal = bin == lower ? 1 - upper_share : bin == lower + 1 ? upper_share : 0;
                    const double slope = by_distance * p * (static_cast<double>(bin) - own[side].expected)
                                         + settings.dfl_gain * (p - goal) / 4;
                    gradient[place(b, side * R + bin, a)] = static_cast<float>(images_count * target.weight * slope / N);
                }
            }
        }
    }
    const double items[3] = {settings.box_gain * box_sum / N, settings.cls_gain * cls_sum / N, settings.dfl_gain * dfl_sum / N};
    const vector<float> logged{static_cast<float>(items[0]), static_cast<float>(items[1]), static_cast<float>(items[2])};
    outcome.add<float>("loss.items", "F32", {3}, logged);
    outcome.add<float>("loss.total", "F32", {}, {static_cast<float>((items[0] + items[1] + items[2]) * images_count)});
    for (size_t level = 0; level < levels; ++level)
        outcome.add<float>("loss.gradients." + std::to_string(level), "F32", maps[level]->shape, gradients[level]);
}

// ---- the vectors

Settings settings_of(const Json& entry) {
    const Json& numbers = entry["hyperparameters"];
    const Json& head = entry["head"];
    Settings settings;
    settings.topk = settings.topk2 = static_cast<size_t>(numbers["topk"].number);
    if (numbers.has("topk2")) settings.topk2 = static_cast<size_t>(numbers["topk2"].number);
    settings.alpha = numbers["alpha"].number;
    settings.beta = numbers["beta"].number;
    settings.box_gain = numbers["box_gain"].number;
    settings.cls_gain = numbers["cls_gain"].number;
    settings.dfl_gain = numbers["dfl_gain"].number;
    settings.classes = static_cast<size_t>(head["classes"].number);
    settings.bins = static_cast<size_t>(head["reg_max"].number);
    for (const Json& stride : head["strides"].list) settings.strides.push_back(stride.number);
    if (head.has("class_weights"))
        for (const Json& weight : head["class_weights"].list) settings.class_weights.push_back(weight.number);
    return settings;
}

void read_images(const std::map<string, Tensor>& inputs, vector<Image>& images) {
    const Tensor &scores = inputs.at("scores"), &boxes = inputs.at("boxes"), &anchors = inputs.at("anchors");
    const Tensor &labels = inputs.at("labels"), &truths = inputs.at("truth_boxes"), &real = inputs.at("truth_mask");
    const size_t B = scores.shape[0], A = scores.shape[1], C = scores.shape[2], M = labels.shape[1];
    const auto box_at = [](const Tensor& tensor, size_t n) {
        const float* side = &tensor.numbers[4 * n];
        return Box{side[0], side[1], side[2], side[3]};
    };
    for (size_t b = 0; b < B; ++b) {
        Image image;
        for (size_t n = 0; n < A * C; ++n) image.scores.push_back(scores.numbers[b * A * C + n]);
        for (size_t a = 0; a < A; ++a) {
            image.boxes.push_back(box_at(boxes, b * A + a));
            image.anchors.push_back({anchors.numbers[2 * a], anchors.numbers[2 * a + 1]});
        }
        for (size_t g = b * M; g < (b + 1) * M; ++g) {
            image.labels.push_back(static_cast<int>(labels.numbers[g]));
            image.truths.push_back(box_at(truths, g));
            image.real.push_back(real.numbers[g] > 0);
        }
        images.push_back(image);
    }
}

void add_assignment(const vector<vector<Target>>& targets, size_t classes, Outcome& outcome) {
    const size_t B = targets.size(), A = targets[0].size();
    vector<int32_t> labels, index;
    vector<uint8_t> foreground;
    vector<float> boxes, scores(B * A * classes);
    for (size_t b = 0; b < B; ++b) {
        for (size_t a = 0; a < A; ++a) {
            const Target& target = targets[b][a];
            labels.push_back(target.label);
            index.push_back(target.truth);
            foreground.push_back(target.foreground);
            for (const double side : target.box) boxes.push_back(static_cast<float>(side));
            scores[(b * A + a) * classes + target.label] = static_cast<float>(target.weight);
        }
    }
    outcome.add("assignment.labels", "I32", {B, A}, labels);
    outcome.add("assignment.truth_index", "I32", {B, A}, index);
    outcome.add("assignment.foreground", "U8", {B, A}, foreground);
    outcome.add("assignment.boxes", "F32", {B, A, 4}, boxes);
    outcome.add("assignment.scores", "F32", {B, A, classes}, scores);
}

int main(int count, char** arguments) {
    if (count != 2) {
        std::cerr << "usage: tal FOLDER, a folder that `tal-conformance export` wrote\n";
        return 2;
    }
    const fs::path folder = arguments[1], own = folder / "outcomes" / "cpp";
    fs::create_directories(own);
    const string text = contents(folder / "vectors.json");
    const Json vectors = JsonReader{text}.value();
    for (const Json& entry : vectors["vectors"].list) {
        const Settings settings = settings_of(entry);
        Outcome outcome;
        string raised;
        const fs::path file = own / (entry["id"].text + ".safetensors");
        const string checksum = entry["batch"]["sha256"].text;
        vector<vector<Target>> targets;
        vector<Image> images;
        if (entry["dtype"].text != "float32") {
            outcome.write(file, checksum, "unsupported", "mixed precision");
            continue;
        }
        try {
            if (entry["asks"].text == "loss") {
                compute_loss(read(folder / entry["batch"]["file"].text), settings, outcome, targets, images);
            } else {
                read_images(read(folder / entry["inputs"]["file"].text), images);
                for (const Image& image : images) targets.push_back(assign(image, settings));
            }
            add_assignment(targets, settings.classes, outcome);
        } catch (const std::invalid_argument& error) {
            raised = error.what();
            outcome = Outcome();
        }
        outcome.write(file, checksum, "raised", raised);
    }
    std::ofstream(own / "implementation.json")
        << R"({"schema": 1, "name": "cpp", "version": "C++20", "gives": ["assignment", "loss", "gradients"]})" << "\n";
}
